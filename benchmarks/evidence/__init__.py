"""Which word decided the next one, on prefixes where that is known: where do scores put it?"""
