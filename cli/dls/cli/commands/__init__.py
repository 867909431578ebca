"""The commands of `dls`, one module each (or one per group): what they take, which action that is, how it is shown."""
