"""The command `resumable`: each subcommand is a file.

main    the command line: adds each command of the other files
demo    `resumable demo`
"""
