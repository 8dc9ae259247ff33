"""A Lightning run that is cut anywhere and resumed against the same run without a cut."""
