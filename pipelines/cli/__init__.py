"""The command line: the commands by subject, their output, and the prompt of `mmm4rec sql`."""
