"""The commands of the console script, one thin module each."""
