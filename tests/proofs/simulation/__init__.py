"""Runs that are killed, resumed and resized many thousand times, in simulation, against an independent walk.

sizes ──► chains ──► play ──► command          what is drawn, how one is played, many of them
                      │          │
         walk ──► loop, log   shortest         what must come, one process; the first that fails, cut short
                    ▲
                  ranks                        the loader of one rank
"""
