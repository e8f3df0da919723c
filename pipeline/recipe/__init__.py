"""What decides a run.

1. A recipe is one frozen tree, `recipe.Recipe`; each section has a file: `data`, `fields`, `tasks`, `model`, `batch`,
   `optim`, `train`, `tracking`. `prepare` is the tree of `interlace prepare`; `base` is what all nodes share.
2. `load` reads YAML, applies `path=value` overrides and reports every error at once, in the words of `messages`.
3. `identity` says when two recipes are the same: dotted paths, a digest, and which settings only say
   where a run happens.
4. `start` pins what a run starts from (another run, a pretrained model) by content.
"""
