"""What is saved, the file that holds it, and how it is compared with the present run.

snapshot           the state as a value, and its JSON form
fields             single values of a saved state, checked
schedule_format    schedules as the ledger saves them
ledger             the run's stretches: step to sample and back
resolve            saved against current: the position to resume at, and the verdict
agreement          what all ranks must agree on
audit_log          what a rank trains, written as it trains
file               one state in one file, whole at every moment
file_text          its text, with a checksum
"""
