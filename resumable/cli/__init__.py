"""The command `resumable`: each subcommand is a file.

main    the command line
demo    `resumable demo`
"""
