"""Evidence: everything that can be handed to an auditor, as pure projections of one value, the ``Assessment``.

Rules: what is written comes from the assessment and from nowhere else, so that no two files can disagree; the same
assessment always gives the same bytes; "not assessed" is said wherever it is true and never looks like "no findings";
texts from a bundle are hostile until they are escaped.
"""
