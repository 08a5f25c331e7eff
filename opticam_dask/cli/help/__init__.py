"""What is shown beside the options of a command: groups, examples, completion in a shell."""
