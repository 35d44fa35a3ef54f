"""Models from texts and pairs, from nothing or from a teacher."""
