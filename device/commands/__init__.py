"""The commands of `agentkeys`, a file for each noun. They parse, call and print; what happens is elsewhere."""
