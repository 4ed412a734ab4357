"""What proves who somebody is: access tokens, passwords, and the secrets that tokens are signed with."""
