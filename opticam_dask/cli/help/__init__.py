"""Help beside the options of a command: groups of commands, examples, completion in a shell."""
