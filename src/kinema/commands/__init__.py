"""The commands of the command line, one file each, with a `main(words)`."""
