"""OSCAL 1.2.1: assessment results, a component definition of this tool, and a plan of action and milestones."""
