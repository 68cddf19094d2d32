"""The name of the token, apart from the clients: command lines tell it before they need any HTTP."""

TOKEN_VARIABLE = "STEPVIDEO_TOKEN"  # in the environment, of servers and clients
