"""`resumable demo`: real training, killed again and again, with and without `@resumable`, beside a run left alone.

    cli ──► main ──► arms ──────► session      the training process; Lightning and torch are imported there alone
             │        │  ╲           │
             │        │   settings   model     what a user would write ──► text
             │        ╰─► history ◄──╯         what a run leaves in its folder
             ╰──────────► resumable.report     counts, table and picture

The extra `demo` brings what it needs: Lightning, matplotlib and rich.
"""
