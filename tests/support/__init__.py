"""What several tests share: a bank that writes, a command line that is run, sites to work in."""
