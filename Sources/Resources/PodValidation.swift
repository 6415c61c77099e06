/// What is checked of a Pod: names, containers, and above all the volumes that secrets go into. Fields that concern only
/// whoever runs the containers are kept unread.
extension Pod {
    func errors() -> [FieldError] {
        let spec = resource.tree["spec"] ?? [:]
        var errors: [FieldError] = []
        let volumes = spec["volumes"]?.arrayValue ?? []
        var volumeNames: [String] = []
        for (index, volume) in volumes.enumerated() {
            errors += Self.errors(volume: volume, "spec.volumes[\(index)]", &volumeNames)
        }
        if spec["containers"]?.arrayValue?.isEmpty ?? true { errors.append(.required("spec.containers")) }
        var containerNames: [String] = []
        for list in ["initContainers", "containers", "ephemeralContainers"] {
            for (index, container) in (spec[list]?.arrayValue ?? []).enumerated() {
                errors += Self.errors(container: container, "spec.\(list)[\(index)]", &containerNames, volumes: volumeNames)
            }
        }
        for (index, reference) in (spec["imagePullSecrets"]?.arrayValue ?? []).enumerated() {
            errors += Self.errors(secretName: reference["name"], "spec.imagePullSecrets[\(index)].name")
        }
        if !nodeName.isEmpty { errors += Names.errors(dns1123Subdomain: nodeName).map { .invalid("spec.nodeName", nodeName, $0) } }
        for (key, value) in nodeSelector {
            errors += Names.errors(qualifiedName: key).map { .invalid("spec.nodeSelector", key, $0) }
            errors += Names.errors(labelValue: value).map { .invalid("spec.nodeSelector", value, $0) }
        }
        if terminationGracePeriodSeconds < 0 {
            errors.append(.invalid("spec.terminationGracePeriodSeconds", terminationGracePeriodSeconds, "must be greater than or equal to 0"))
        }
        if let group = fsGroup, !(0...2_147_483_647).contains(group) {
            errors.append(.invalid("spec.securityContext.fsGroup", group, "must be between 0 and 2147483647, inclusive"))
        }
        let policies = ["Always", "OnFailure", "Never"]
        if let policy = spec["restartPolicy"]?.stringValue, !policies.contains(policy) {
            errors.append(.notSupported("spec.restartPolicy", policy, supported: policies))
        }
        if let phase = resource.tree["status"]?["phase"]?.stringValue, Phase(rawValue: phase) == nil {
            errors.append(.notSupported("status.phase", phase, supported: ["Pending", "Running", "Succeeded", "Failed", "Unknown"]))
        }
        return errors
    }

    // MARK: Volumes

    private static func errors(volume: JSONValue, _ path: String, _ names: inout [String]) -> [FieldError] {
        var errors: [FieldError] = []
        let name = volume["name"]?.stringValue ?? ""
        if name.isEmpty {
            errors.append(.required("\(path).name"))
        } else {
            errors += Names.errors(dns1123Label: name).map { .invalid("\(path).name", name, $0) }
            if names.contains(name) { errors.append(.duplicate("\(path).name", name)) }
            names.append(name)
        }
        let kinds = (volume.objectValue?.keys ?? []).filter { $0 != "name" }
        if kinds.isEmpty { errors.append(.required(path, "must specify a volume type")) }
        for extra in kinds.dropFirst() { errors.append(.forbidden("\(path).\(extra)", "may not specify more than 1 volume type")) }
        if let secret = volume["secret"] {
            errors += Self.errors(secretName: secret["secretName"], "\(path).secret.secretName")
            errors += Self.errors(mode: secret["defaultMode"], "\(path).secret.defaultMode")
            var paths = FilePaths()
            errors += Self.errors(items: secret["items"], "\(path).secret.items", &paths)
        }
        if let projected = volume["projected"] {
            errors += Self.errors(mode: projected["defaultMode"], "\(path).projected.defaultMode")
            var paths = FilePaths()
            for (index, source) in (projected["sources"]?.arrayValue ?? []).enumerated() {
                let place = "\(path).projected.sources[\(index)]", kinds = source.objectValue?.keys ?? []
                if kinds.isEmpty { errors.append(.required(place, "must specify a projection type")) }
                for extra in kinds.dropFirst() { errors.append(.forbidden("\(place).\(extra)", "may not specify more than 1 volume type")) }
                guard let secret = source["secret"] else { continue }
                errors += Self.errors(secretName: secret["name"], "\(place).secret.name")
                errors += Self.errors(items: secret["items"], "\(place).secret.items", &paths)
            }
        }
        return errors
    }

    private static func errors(secretName: JSONValue?, _ path: String) -> [FieldError] {
        let name = secretName?.stringValue ?? ""
        return name.isEmpty ? [.required(path)] : Names.errors(dns1123Subdomain: name).map { .invalid(path, name, $0) }
    }

    private static func errors(mode: JSONValue?, _ path: String) -> [FieldError] {
        guard let mode = mode?.integerValue, !(0...0o777).contains(mode) else { return [] }
        return [.invalid(path, mode, "must be a number between 0 and 0777 (octal), both inclusive")]
    }

    private static func errors(items: JSONValue?, _ path: String, _ paths: inout FilePaths) -> [FieldError] {
        (items?.arrayValue ?? []).enumerated().flatMap { index, item -> [FieldError] in
            var errors: [FieldError] = []
            let place = "\(path)[\(index)]", key = item["key"]?.stringValue ?? "", file = item["path"]?.stringValue ?? ""
            if key.isEmpty {
                errors.append(.required("\(place).key"))
            } else {
                errors += Names.errors(secretKey: key).map { .invalid("\(place).key", key, $0) }
            }
            if file.isEmpty {
                errors.append(.required("\(place).path"))
            } else {
                errors += Names.errors(relativePath: file).map { .invalid("\(place).path", file, $0) }
                if let conflict = paths.insert(file) { errors.append(.invalid("\(place).path", file, conflict)) }
            }
            return errors + Self.errors(mode: item["mode"], "\(place).mode")
        }
    }

    /// The files of one volume. Two of the same path, or one that is another's directory, cannot both be.
    private struct FilePaths {
        private var files: Set<String> = []
        private var directories: Set<String> = []
        /// What it conflicts with, or `nil`.
        mutating func insert(_ path: String) -> String? {
            if files.contains(path) { return "conflicting duplicate paths" }
            if directories.contains(path) { return "conflicts with another item's path, of which it is a directory" }
            var parents: [String] = [], parent = path[...]
            while let slash = parent.lastIndex(of: "/") {
                parent = parent[..<slash]
                parents.append(String(parent))
            }
            if parents.contains(where: { files.contains($0) }) { return "conflicts with another item's path, which is a directory of it" }
            files.insert(path)
            directories.formUnion(parents)
            return nil
        }
    }

    // MARK: Containers

    private static func errors(container: JSONValue, _ path: String, _ names: inout [String], volumes: [String]) -> [FieldError] {
        var errors: [FieldError] = []
        let name = container["name"]?.stringValue ?? ""
        if name.isEmpty {
            errors.append(.required("\(path).name"))
        } else {
            errors += Names.errors(dns1123Label: name).map { .invalid("\(path).name", name, $0) }
            if names.contains(name) { errors.append(.duplicate("\(path).name", name)) }
            names.append(name)
        }
        if container["image"]?.stringValue ?? "" == "" { errors.append(.required("\(path).image")) }
        var mountPaths: [String] = []
        for (index, mount) in (container["volumeMounts"]?.arrayValue ?? []).enumerated() {
            let place = "\(path).volumeMounts[\(index)]", volume = mount["name"]?.stringValue ?? "", target = mount["mountPath"]?.stringValue ?? ""
            if volume.isEmpty {
                errors.append(.required("\(place).name"))
            } else if !volumes.contains(volume) {
                errors.append(.notFound("\(place).name", volume))
            }
            if target.isEmpty {
                errors.append(.required("\(place).mountPath"))
            } else if mountPaths.contains(target) {
                errors.append(.invalid("\(place).mountPath", target, "must be unique"))
            }
            mountPaths.append(target)
        }
        for (index, variable) in (container["env"]?.arrayValue ?? []).enumerated() {
            errors += Self.errors(variable: variable, "\(path).env[\(index)]")
        }
        for (index, source) in (container["envFrom"]?.arrayValue ?? []).enumerated() {
            guard let secret = source["secretRef"] else { continue }
            errors += Self.errors(secretName: secret["name"], "\(path).envFrom[\(index)].secretRef.name")
        }
        return errors
    }

    private static func errors(variable: JSONValue, _ path: String) -> [FieldError] {
        var errors: [FieldError] = []
        let name = variable["name"]?.stringValue ?? ""
        if name.isEmpty {
            errors.append(.required("\(path).name"))
        } else {
            errors += Names.errors(environmentName: name).map { .invalid("\(path).name", name, $0) }
        }
        guard let source = variable["valueFrom"] else { return errors }
        if variable["value"]?.stringValue ?? "" != "" { errors.append(.invalid("\(path).valueFrom", "", "may not be specified when `value` is not empty")) }
        guard let reference = source["secretKeyRef"] else { return errors }
        errors += Self.errors(secretName: reference["name"], "\(path).valueFrom.secretKeyRef.name")
        let key = reference["key"]?.stringValue ?? ""
        if key.isEmpty {
            errors.append(.required("\(path).valueFrom.secretKeyRef.key"))
        } else {
            errors += Names.errors(secretKey: key).map { .invalid("\(path).valueFrom.secretKeyRef.key", key, $0) }
        }
        return errors
    }

    // MARK: Update

    /// A pod's spec stays as it was, but for the few fields Kubernetes lets change; a node is given by binding only.
    func errors(replacing old: Pod) -> [FieldError] {
        guard Self.withoutMutableFields(resource) != Self.withoutMutableFields(old.resource) else { return [] }
        return [
            .forbidden(
                "spec",
                "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,"
                    + "`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` "
                    + "(allow it to be set to 1 if it was previously negative)")
        ]
    }
    private static func withoutMutableFields(_ resource: Resource) -> JSONValue {
        var spec = resource.tree["spec"] ?? [:]
        spec["activeDeadlineSeconds"] = nil
        spec["tolerations"] = nil
        for list in ["containers", "initContainers"] {
            guard let containers = spec[list]?.arrayValue else { continue }
            spec[list] = .array(
                containers.map { container in
                    var container = container
                    container["image"] = nil
                    return container
                })
        }
        return spec
    }
}
