"""What a data set is made of, and how far it can be trusted: the paper's Tables 1 and 3, Figure 5, agreement and cost."""
