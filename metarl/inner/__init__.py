"""How one learner learns during one lifetime: each function here returns a `metarl.meta.InnerLoop`."""
