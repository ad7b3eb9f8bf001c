"""envcheck: is this machine fit for fine-tuning, and what to type if it is not. Standard library only."""
