"""The command line: `main` dispatches to the commands, each a module with a `main(words)`."""
