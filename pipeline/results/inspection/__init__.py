"""What `interlace inspect` shows, in five steps.

1. `facts`: counts of each split, from its manifest and its labels.
2. `values`: values of a field that occur in several records, by hash.
3. `views`: a few training records, decoded and augmented as training has them, kept as arrays.
4. `plots`: arrays as SVG; `cards`: views as HTML; `page`: all of it as one document.
5. `html`: the pieces these share. Text from data or recipe enters a page through `html.text` and `html.plain` only.
"""
