"""From files of requests to files of answers, in one process or in a job of many."""
