"""Names of the figures that the epochs of a run are judged by, and what they are called."""

from __future__ import annotations

REPRESENTATION = {
    "knn_accuracy": "k-NN accuracy",
    "knn_agreement": "k-NN agreement",
    "neighbour_purity": "neighbour purity",
    "neighbour_agreement": "neighbour agreement",
    "cluster_accuracy": "cluster accuracy",
    "cluster_agreement": "cluster agreement",
    "clusters_used": "clusters in use",
}
"""What `labelwise.training.representation` measures of features and clusters, fractions. Agreement
is with the given labels, where the true ones are not known."""
TEST_ACCURACY = {"test_accuracy": "test accuracy"}
SHORT = {
    "knn_accuracy": "k-NN",
    "knn_agreement": "k-NN agreement",
    "cluster_accuracy": "clusters",
    "cluster_agreement": "cluster agreement",
    "test_accuracy": "test",
}
"""Those with room beside a progress bar."""
