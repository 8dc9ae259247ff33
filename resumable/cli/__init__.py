"""The command `resumable`: each subcommand is a file, with an `add_to`.

main       the command line: adds each command of the other files, and says its errors in one line
command    what all commands share: exit codes, how one is declared
output     what a command prints: facts, tables, JSON
states     which of a checkpoint's positions a command is about
inspect    `resumable inspect`
verify     `resumable verify`
which      `resumable which`
plan       `resumable plan`
audit      `resumable audit`
report     `resumable report`
demo       `resumable demo`
"""
