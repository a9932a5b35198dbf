"""Replicas over SFTP: begin with `store`, which is all that the rest of backupd sees."""
