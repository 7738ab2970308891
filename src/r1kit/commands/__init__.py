"""One file per verb of the command line: parse arguments, call, print."""
