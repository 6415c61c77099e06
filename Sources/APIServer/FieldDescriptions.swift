/// What `kubectl explain` says of the fields that matter here, by kind and path; by the last name alone where it means the same everywhere.
enum FieldDescriptions {
    static let of: [String: String] = [
        "apiVersion": "The version of this representation of the object.",
        "kind": "The kind of resource that this object is.",
        "metadata": "Standard object's metadata: names, labels, annotations, version.",
        "metadata.name": "Unique within its kind and namespace. Cannot be changed.",
        "metadata.generateName": "A prefix: the server makes a unique name from it when no name is given.",
        "metadata.namespace": "The space within which the name must be unique, and whose keys seal the object's content.",
        "metadata.uid": "Given by the server: tells this object from another one that had its name before.",
        "metadata.resourceVersion": "The revision of the last change. An update that names an older one is refused as a conflict.",
        "metadata.creationTimestamp": "When the server made the object.",
        "metadata.deletionTimestamp": "When the object is to be gone. Set by the server when a deletion is asked for.",
        "metadata.deletionGracePeriodSeconds": "How long the object may take to go.",
        "metadata.labels": "Names and values by which objects are selected.",
        "metadata.annotations": "Names and values for tools and people. Readable by whoever may read the object.",
        "metadata.finalizers": "The object stays, being deleted, until this list is empty.",
        "metadata.ownerReferences": "Objects that this one depends on.",

        "Namespace": "A space of names. Each has encryption keys of its own, made at first use.",
        "Namespace.status.phase": "Active, or Terminating while what is in it is removed.",

        "Node": "A machine on which an agent brings secrets to pods. It registers itself when its agent connects.",
        "Node.spec.unschedulable": "No more pods are bound to it: see cordon.",
        "Node.status.conditions": "Ready is True while the agent's stream is open.",

        "Pod": "Names the secrets that its node needs while it lives. Coffer runs no containers.",
        "Pod.spec.nodeName": "The node it is bound to. Left out, the scheduler binds it to a ready node that fits.",
        "Pod.spec.nodeSelector": "Labels that the node must have.",
        "Pod.spec.terminationGracePeriodSeconds": "How long secrets stay after a deletion is asked for.",
        "Pod.spec.volumes": "Secret volumes and projected volumes with secret sources are delivered as files on tmpfs.",
        "Pod.spec.volumes.secret": "A secret of the pod's own namespace, each key a file.",
        "Pod.spec.volumes.secret.secretName": "The secret's name, in the pod's namespace.",
        "Pod.spec.volumes.secret.items": "Only these keys, each at the path and with the mode given. Left out: all keys.",
        "Pod.spec.volumes.secret.defaultMode": "Mode bits of the files, 0644 by default.",
        "Pod.spec.volumes.secret.optional": "Whether the pod may do without the secret or its keys.",
        "Pod.spec.volumes.projected": "Several secrets in one folder.",
        "Pod.spec.securityContext.fsGroup": "The group that owns the files, which it may read.",
        "Pod.status.phase": "Pending, Running, Succeeded, Failed or Unknown: set by whoever runs the pod. One that is over has no secrets.",
        "Pod.status.conditions": "coffer.dev/SecretsReady says whether its secrets are there, and if not, why.",

        "Secret": "Secret data of at most 1 MiB together, sealed under its namespace's keys.",
        "Secret.data": "The values in base64, by key. A key is made of letters, digits, '-', '_' and '.'.",
        "Secret.stringData": "Values as plain text, for writing only: they are put into data, which they override.",
        "Secret.type": "What kind of data it is, which decides what keys it must have. Opaque by default. Cannot be changed.",
        "Secret.immutable": "If true, data cannot be changed any more; the object can only be deleted.",
    ]
}
