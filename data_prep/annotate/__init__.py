"""The pass over a store: annotate, cross-verify, criticise, revise (paper sections 3.1.2 and 3.2).

`pipeline.annotate` goes through the items; `item.ItemPipeline` brings one of them to its outcome:

1. Every annotator is asked (`annotators`, with the texts of `prompts`); a full one describes, names the triplet and votes, another
   one only votes. What they must answer are the models of `replies`.
2. `voting` pools the votes: a weighted log-linear pool over the eight emotions.
3. `critic` is shown the draft and judges each field; where the votes were too close it decides the emotion.
4. Flagged fields are asked again, as often as the configuration says; what stays open goes to people (`human`).

Everything is a function of replies, and replies come from the ledger or are bought once (`provider`). So a pass may be ended at any
point and started again. `estimate` says before what it will cost. A changed prompt is a new question, which is paid.
"""
