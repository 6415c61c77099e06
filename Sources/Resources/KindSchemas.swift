// What is known of the fields of each kind, after Kubernetes' core/v1 (`staging/src/k8s.io/api/core/v1/types.go`: types, and
// `patchStrategy`/`patchMergeKey` tags). Pods, nodes and namespaces keep what is not listed; a Secret does not: a
// misspelled `stringdata` must not be stored, and shown, as if it were no secret.

extension Schema {
    private static let strings: Schema = .list(.string, .atomic)
    private static let localReference: Schema = .object(["name": .string], isOpen: true)
    private static let labelSelector: Schema = .object(["matchLabels": .map(.string), "matchExpressions": .list(.anything, .atomic)], isOpen: true)

    static let metadata: Schema = .object(
        [
            "name": .string, "generateName": .string, "namespace": .string, "uid": .string, "resourceVersion": .string, "generation": .integer,
            "creationTimestamp": .string, "deletionTimestamp": .string, "deletionGracePeriodSeconds": .integer, "selfLink": .string,
            "labels": .map(.string), "annotations": .map(.string),
            "ownerReferences": .list(
                .object(
                    ["apiVersion": .string, "kind": .string, "name": .string, "uid": .string, "controller": .boolean, "blockOwnerDeletion": .boolean],
                    isOpen: false), .byKey("uid")),
            "finalizers": .list(.string, .set),
            "managedFields": .list(.anything, .atomic),
        ], isOpen: false)

    private static func kind(_ members: [String: Schema], isOpen: Bool) -> Schema {
        .object(members.merging(["apiVersion": .string, "kind": .string, "metadata": metadata]) { a, _ in a }, isOpen: isOpen)
    }

    static let secret = kind(["type": .string, "immutable": .boolean, "data": .secretData, "stringData": .secretText], isOpen: false)

    static let namespace = kind(
        [
            "spec": .object(["finalizers": strings], isOpen: true),
            "status": .object(["phase": .string, "conditions": conditions], isOpen: true),
        ], isOpen: false)

    private static let conditions: Schema = .list(
        .object(["type": .string, "status": .string, "reason": .string, "message": .string, "lastTransitionTime": .string], isOpen: true), .byKey("type"))

    static let node = kind(
        [
            "spec": .object(
                [
                    "unschedulable": .boolean, "providerID": .string, "podCIDR": .string, "podCIDRs": .list(.string, .set),
                    "taints": .list(.object(["key": .string, "value": .string, "effect": .string, "timeAdded": .string], isOpen: true), .atomic),
                ], isOpen: true),
            "status": .object(
                [
                    "capacity": .map(.integerOrString), "allocatable": .map(.integerOrString), "conditions": conditions,
                    "addresses": .list(.object(["type": .string, "address": .string], isOpen: true), .byKey("type")),
                    "nodeInfo": .object(["kubeletVersion": .string, "kernelVersion": .string, "osImage": .string], isOpen: true),
                ], isOpen: true),
        ], isOpen: false)

    static let pod = kind(["spec": podSpec, "status": podStatus], isOpen: false)

    private static let podStatus: Schema = .object(
        [
            "phase": .string, "reason": .string, "message": .string, "hostIP": .string, "podIP": .string, "startTime": .string,
            "nominatedNodeName": .string, "qosClass": .string,
            "conditions": conditions, "podIPs": .list(.anything, .byKey("ip")), "hostIPs": .list(.anything, .byKey("ip")),
            "containerStatuses": containerStatuses, "initContainerStatuses": containerStatuses, "ephemeralContainerStatuses": containerStatuses,
        ], isOpen: true)
    private static let containerStatuses: Schema = .list(
        .object(["name": .string, "ready": .boolean, "restartCount": .integer, "state": .object([:], isOpen: true)], isOpen: true), .atomic)

    private static let podSpec: Schema = .object(
        [
            "volumes": .list(volume, .byKey("name", retainsKeys: true)),
            "containers": .list(container, .byKey("name")), "initContainers": .list(container, .byKey("name")),
            "ephemeralContainers": .list(container, .byKey("name")),
            "restartPolicy": .string, "terminationGracePeriodSeconds": .integer, "activeDeadlineSeconds": .integer, "dnsPolicy": .string,
            "nodeSelector": .atomic(.map(.string)), "serviceAccountName": .string, "serviceAccount": .string, "automountServiceAccountToken": .boolean,
            "nodeName": .string, "hostNetwork": .boolean, "hostPID": .boolean, "hostIPC": .boolean, "shareProcessNamespace": .boolean,
            "securityContext": .object(
                [
                    "fsGroup": .integer, "fsGroupChangePolicy": .string, "runAsUser": .integer, "runAsGroup": .integer, "runAsNonRoot": .boolean,
                    "supplementalGroups": .list(.integer, .atomic), "sysctls": .list(.anything, .atomic),
                ], isOpen: true),
            "imagePullSecrets": .list(localReference, .byKey("name")),
            "hostname": .string, "subdomain": .string, "schedulerName": .string, "priorityClassName": .string, "priority": .integer,
            "tolerations": .list(
                .object(["key": .string, "operator": .string, "value": .string, "effect": .string, "tolerationSeconds": .integer], isOpen: true), .atomic),
            "hostAliases": .list(.object(["ip": .string, "hostnames": strings], isOpen: true), .byKey("ip")),
            "readinessGates": .list(.anything, .atomic),
            "topologySpreadConstraints": .list(.object(["topologyKey": .string, "labelSelector": labelSelector], isOpen: true), .byKey("topologyKey")),
            "schedulingGates": .list(localReference, .byKey("name")), "resourceClaims": .list(localReference, .byKey("name", retainsKeys: true)),
            "overhead": .map(.integerOrString),
        ], isOpen: true)

    private static let keyToPath: Schema = .object(["key": .string, "path": .string, "mode": .integer], isOpen: true)

    private static let volume: Schema = .object(
        [
            "name": .string,
            "secret": .object(["secretName": .string, "items": .list(keyToPath, .atomic), "defaultMode": .integer, "optional": .boolean], isOpen: true),
            "projected": .object(
                [
                    "defaultMode": .integer,
                    "sources": .list(
                        .object(
                            [
                                "secret": .object(["name": .string, "items": .list(keyToPath, .atomic), "optional": .boolean], isOpen: true),
                                "configMap": .object(["name": .string, "items": .list(keyToPath, .atomic), "optional": .boolean], isOpen: true),
                            ], isOpen: true), .atomic),
                ], isOpen: true),
            "emptyDir": .object(["medium": .string, "sizeLimit": .integerOrString], isOpen: true),
            "configMap": .object(["name": .string, "items": .list(keyToPath, .atomic), "defaultMode": .integer, "optional": .boolean], isOpen: true),
            "hostPath": .object(["path": .string, "type": .string], isOpen: true),
        ], isOpen: true)

    private static let keySelector: Schema = .object(["name": .string, "key": .string, "optional": .boolean], isOpen: true)

    private static let container: Schema = .object(
        [
            "name": .string, "image": .string, "command": strings, "args": strings, "workingDir": .string, "imagePullPolicy": .string,
            "stdin": .boolean, "stdinOnce": .boolean, "tty": .boolean, "restartPolicy": .string,
            "terminationMessagePath": .string, "terminationMessagePolicy": .string,
            "ports": .list(
                .object(["name": .string, "containerPort": .integer, "hostPort": .integer, "protocol": .string, "hostIP": .string], isOpen: true),
                .byKey("containerPort")),
            "env": .list(
                .object(
                    ["name": .string, "value": .string, "valueFrom": .object(["secretKeyRef": keySelector, "configMapKeyRef": keySelector], isOpen: true)],
                    isOpen: true), .byKey("name")),
            "envFrom": .list(
                .object(
                    [
                        "prefix": .string, "secretRef": .object(["name": .string, "optional": .boolean], isOpen: true),
                        "configMapRef": .object(["name": .string, "optional": .boolean], isOpen: true),
                    ], isOpen: true), .atomic),
            "volumeMounts": .list(
                .object(["name": .string, "mountPath": .string, "subPath": .string, "subPathExpr": .string, "readOnly": .boolean], isOpen: true),
                .byKey("mountPath")),
            "volumeDevices": .list(.object(["name": .string, "devicePath": .string], isOpen: true), .byKey("devicePath")),
            "resources": .object(["limits": .map(.integerOrString), "requests": .map(.integerOrString)], isOpen: true),
            "securityContext": .object(
                ["runAsUser": .integer, "runAsGroup": .integer, "runAsNonRoot": .boolean, "privileged": .boolean, "readOnlyRootFilesystem": .boolean],
                isOpen: true),
        ], isOpen: true)
}
