import Resources

/// Who asks: what a client certificate says.
package struct Identity: Sendable, Equatable {
    package var user: String
    package var groups: [String]
    package init(user: String, groups: [String]) { self.user = user; self.groups = groups }

    package static let administrators = "system:masters"
    package static let nodes = "system:nodes"
    package static let authenticated = "system:authenticated"
    package static let nodeUserPrefix = "system:node:"

    /// The node this identity is: user `system:node:NAME` *and* group `system:nodes`, as Kubernetes has it. Either alone is nobody.
    package var node: String? {
        guard user.hasPrefix(Self.nodeUserPrefix), groups.contains(Self.nodes) else { return nil }
        let name = String(user.dropFirst(Self.nodeUserPrefix.count))
        return Names.errors(dns1123Subdomain: name).isEmpty ? name : nil
    }
}

/// What is asked for.
package enum Action: Sendable, Equatable {
    case resource(ResourceAction)
    /// Anything that is no resource: discovery, health, version.
    case path(verb: String, path: String)
}

package struct ResourceAction: Sendable, Equatable {
    package var verb: String
    package var group: String
    package var resource: String
    package var subresource: String
    /// Empty: all namespaces, or a kind without them.
    package var namespace: String
    /// Empty: the collection.
    package var name: String
    /// Of a list or watch: the node that its field selector narrows it to (`spec.nodeName=…`).
    package var selectedNode: String?
    /// Of a request about one pod: the node it is bound to, as the store knows it; `nil` when it is bound to none or is not there.
    package var boundNode: String?

    package init(
        verb: String, group: String = "", resource: String, subresource: String = "", namespace: String = "", name: String = "", selectedNode: String? = nil,
        boundNode: String? = nil
    ) {
        self.verb = verb; self.group = group; self.resource = resource; self.subresource = subresource
        self.namespace = namespace; self.name = name; self.selectedNode = selectedNode; self.boundNode = boundNode
    }
    var isReading: Bool { ["get", "list", "watch"].contains(verb) }
}

/// May they? A denial carries its reason, for the answer and for the audit record.
package enum Decision: Sendable, Equatable {
    case allowed
    case denied(because: String)
    package var isAllowed: Bool { self == .allowed }
}

/// The rules, as one function of its arguments. What no rule allows is denied.
///
///   (1) `system:masters` may do everything.
///   (2) A node may what `node.md` §2 gives it (see `NodeRules`), and nothing else: no secret, whatever the path to it.
///   (3) Whoever has authenticated may see what is served (discovery, version), and ask what they may do themselves.
///   (4) Anybody may ask whether the server is alive.
package enum Authorizer {
    package static func decide(_ identity: Identity, _ action: Action) -> Decision {
        if identity.groups.contains(Identity.administrators) { return .allowed }  // (1)
        switch action {
        case .path(let verb, let path): return decide(path: path, verb, identity)
        case .resource(let action):
            if isSelfReview(action), identity.groups.contains(Identity.authenticated) { return .allowed }  // (3)
            if let node = identity.node { return NodeRules(node: node).decide(action) }  // (2)
            if identity.groups.contains(Identity.nodes) || identity.user.hasPrefix(Identity.nodeUserPrefix) {
                return .denied(because: "unknown node for user \"\(identity.user)\"")
            }
            return .denied(because: "no rule allows it")
        }
    }

    private static func isSelfReview(_ action: ResourceAction) -> Bool {
        action.verb == "create" && SelfReview.all.contains { $0.group == action.group && $0.resource == action.resource }
    }

    /// The same rules as a list, for who asks what they may do. Each of them is allowed by `decide`; what is not in it is not.
    package static func rules(of identity: Identity) -> (resources: [ResourceRule], paths: [PathRule]) {
        if identity.groups.contains(Identity.administrators) {
            return ([ResourceRule(verbs: ["*"], groups: ["*"], resources: ["*"])], [PathRule(verbs: ["*"], paths: ["*"])])
        }
        let health = PathRule(verbs: ["get"], paths: healthPaths + healthPaths.map { $0 + "/*" })
        guard identity.groups.contains(Identity.authenticated) else { return ([], [health]) }
        let reviews = SelfReview.all.map { ResourceRule(verbs: ["create"], groups: [$0.group], resources: [$0.resource]) }
        let served = PathRule(verbs: ["get"], paths: servedPaths + servedPaths.map { $0 + "/*" })
        return (reviews + (identity.node.map { NodeRules(node: $0).rules } ?? []), [health, served])
    }
    private static let healthPaths = ["/healthz", "/livez", "/readyz"], servedPaths = ["/api", "/apis", "/version", "/openapi"]

    private static func decide(path: String, _ verb: String, _ identity: Identity) -> Decision {
        guard verb == "get" || verb == "head" else { return .denied(because: "no rule allows it") }
        func isUnder(_ roots: [String]) -> Bool { roots.contains { path == $0 || path.hasPrefix($0 + "/") } }
        if isUnder(healthPaths) { return .allowed }  // (4)
        if identity.groups.contains(Identity.authenticated), isUnder(servedPaths) { return .allowed }  // (3)
        return .denied(because: "no rule allows it")
    }
}

/// What a node may do: report itself, follow the pods bound to it and report their status, and receive secrets by its own
/// stream, where the server computes what it is entitled to. It never names a secret.
package struct NodeRules {
    let node: String

    /// As Kubernetes' NodeRestriction has it.
    package static func isRestricted(label: String) -> Bool {
        let prefix = label.split(separator: "/", maxSplits: 1, omittingEmptySubsequences: false).first.map(String.init) ?? ""
        return label.contains("/") && (prefix == "node-restriction.kubernetes.io" || prefix.hasSuffix(".node-restriction.kubernetes.io"))
    }

    var rules: [ResourceRule] {
        [
            ResourceRule(verbs: ["create", "get"], groups: [""], resources: ["nodes"], names: [node]),
            ResourceRule(verbs: ["get", "patch", "update"], groups: [""], resources: ["nodes/status"], names: [node]),
            ResourceRule(verbs: ["create"], groups: ["coffer.dev"], resources: ["nodes/acks", "nodes/sync"], names: [node]),
        ]
    }

    func decide(_ action: ResourceAction) -> Decision {
        switch (action.group, action.resource) {
        case ("", "nodes"): nodes(action)
        case ("", "pods"): pods(action)
        case ("coffer.dev", "nodes"): stream(action)
        case ("", "secrets"): .denied(because: "a node receives secrets by its sync stream only")
        default: .denied(because: "no rule allows a node \(action.resource)")
        }
    }

    private func nodes(_ action: ResourceAction) -> Decision {
        guard action.name == node else { return .denied(because: "node \"\(node)\" may act on itself only") }
        switch (action.verb, action.subresource) {
        case ("get", ""), ("get", "status"): return .allowed
        case ("create", ""): return .allowed  // it registers itself; its certificate already says its name
        case ("update", "status"), ("patch", "status"): return .allowed
        default: return .denied(because: "a node may report its status, and change nothing else of itself")
        }
    }

    private func pods(_ action: ResourceAction) -> Decision {
        switch (action.verb, action.subresource) {
        case ("list", ""), ("watch", ""):
            guard action.selectedNode == node else {
                return .denied(because: "a node may list and watch its own pods only: use the field selector spec.nodeName=\(node)")
            }
            return .allowed
        case ("get", ""), ("get", "status"), ("update", "status"), ("patch", "status"):
            guard action.boundNode == node else { return .denied(because: "no relationship found between node \"\(node)\" and this pod") }
            return .allowed
        default:
            return .denied(because: "a node may read its pods and report their status, not \(action.verb) them")
        }
    }

    private func stream(_ action: ResourceAction) -> Decision {
        guard action.name == node else { return .denied(because: "node \"\(node)\" may use its own stream only") }
        guard action.verb == "create", ["sync", "acks"].contains(action.subresource) else { return .denied(because: "no rule allows it") }
        return .allowed
    }
}
