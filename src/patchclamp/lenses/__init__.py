"""What a hidden state would predict if it were the last one: the logit lens, and what each component adds to a logit."""
