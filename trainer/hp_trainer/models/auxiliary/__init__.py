"""The auxiliary modules of SST: they shape the features in training and are left behind.

msa   pools one vector per category and scale out of the decoder's maps     (Eq. 2–4)
mse   lets the categories of one domain talk to each other                  (Eq. 5–7)
mst   maps the categories of one domain onto those of another               (Eq. 8–11)
"""
