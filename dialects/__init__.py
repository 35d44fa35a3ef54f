"""Other services' wire formats of requests and answers, to and from our own values. Pure."""
