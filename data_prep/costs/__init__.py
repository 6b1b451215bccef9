"""Money: nano-dollars, prices, tokens of images, budgets and estimates."""
