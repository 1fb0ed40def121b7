"""The command line: commands by subject, what they print, the prompt of `mmm4rec sql`, and bars of progress."""
