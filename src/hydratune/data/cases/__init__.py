"""The case studies: data sources that turn a folder of published files into rows, one module each.

To add one, see ``hydratune.data.sources``; ``base.CaseData`` has the folder and its rules.
"""
