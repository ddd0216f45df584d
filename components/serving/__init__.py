"""From a promoted version to answers over HTTP."""
