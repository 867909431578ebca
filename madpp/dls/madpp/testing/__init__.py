"""What a new action is tried with: a world in a folder, the suite of rules, and violations that it must tell."""
