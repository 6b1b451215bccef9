"""From a YAML file to finished stages, in five steps.

1. `files.read_experiment` reads the YAML and what it `extends`; `resolve.load_experiment` adds `defaults`, multiplies `foreach`, applies
   the overrides of the command line and fills in `${…}`: an `Experiment`, whose `Stage`s hold plain values.
2. `kinds.STAGE_KINDS` says what the stage's `run: KIND` stands for: a function, or a LightningModule with its data.
3. `arguments.check` parses every stage's values against the signature of that function or those classes, before anything runs.
4. `runner.run_experiment` goes through the stages in order, skips those that `status` knows as complete, and gives each a process
   (`processes`) of its own.
5. There `execution.execute` calls the function, or makes a LightningCLI and lets its Trainer fit or test.
"""
