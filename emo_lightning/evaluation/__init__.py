"""What a model is worth: Table 5, Table 6, the MDS picture (paper section 4.3) and the page that shows them.

`stages` holds the functions that an experiment calls; the other modules can be used alone. Nothing is imported here, so
that `import emo_lightning.evaluation.matching` costs numpy and scipy only.
"""
