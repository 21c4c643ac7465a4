"""What owners are told, and the door behind the links they get."""
