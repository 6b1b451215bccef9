"""A trained model and what is done with it: load a bundle folder, embed images and tars, explain one image."""
