"""The colours of all figures, on the studio's page and on the pages that benches write.

Pages may be light or dark, and figures have no background of their own: every colour stands out from both white and
near-black.
"""

INK = "#807b75"  # text and axes; at least 4 to 1 on white and on near-black
GRID = "rgba(128,123,117,0.22)"
# Told apart by readers with any of the common colour blindnesses, and by lightness. At least 3 to 1 on white and near-black.
BLUE, EMBER, GREY = "#3a86cf", "#d9661f", "#8f8a84"
