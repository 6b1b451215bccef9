"""Tars to batches: index and reader, sampler, loader, box codec, chat targets, collation."""
