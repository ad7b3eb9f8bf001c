"""kit: fine-tune a language model on one consumer graphics card, in a run that cannot fail silently."""
