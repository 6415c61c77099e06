import Testing

@testable import Access

@Suite("who may do what") struct AuthorizerTests {
    struct Case: Sendable, CustomTestStringConvertible {
        var testDescription: String
        var identity: Identity
        var action: Action
        var allowed: Bool
    }

    static let admin = Identity(user: "admin", groups: ["system:masters", "system:authenticated"])
    static let nodeA = Identity(user: "system:node:a", groups: ["system:nodes", "system:authenticated"])
    static let nodeWithoutGroup = Identity(user: "system:node:a", groups: ["system:authenticated"])
    static let groupWithoutNode = Identity(user: "a", groups: ["system:nodes", "system:authenticated"])
    static let badNodeName = Identity(user: "system:node:../b", groups: ["system:nodes", "system:authenticated"])
    static let stranger = Identity(user: "eve", groups: ["system:authenticated"])
    static let anonymous = Identity(user: "system:anonymous", groups: ["system:unauthenticated"])

    static func action(
        _ verb: String, _ resource: String, name: String = "", namespace: String = "", group: String = "", selected: String? = nil, bound: String? = nil
    ) -> Action {
        let parts = resource.split(separator: "/").map(String.init)
        return .resource(
            ResourceAction(
                verb: verb, group: group, resource: parts[0], subresource: parts.count > 1 ? parts[1] : "", namespace: namespace, name: name,
                selectedNode: selected,
                boundNode: bound))
    }
    static func allowed(_ title: String, _ identity: Identity, _ action: Action) -> Case {
        Case(testDescription: "allowed: " + title, identity: identity, action: action, allowed: true)
    }
    static func disallowed(_ title: String, _ identity: Identity, _ action: Action) -> Case {
        Case(testDescription: "disallowed: " + title, identity: identity, action: action, allowed: false)
    }

    static let table: [Case] = [
        allowed("an administrator reads a secret", admin, action("get", "secrets", name: "s", namespace: "ns")),
        allowed("an administrator deletes a namespace", admin, action("delete", "namespaces", name: "ns")),
        allowed("an administrator rotates", admin, .path(verb: "post", path: "/apis/coffer.dev/v1/operator/rotate")),

        allowed("a node gets itself", nodeA, action("get", "nodes", name: "a")),
        allowed("a node registers itself", nodeA, action("create", "nodes", name: "a")),
        allowed("a node reports its status", nodeA, action("patch", "nodes/status", name: "a")),
        disallowed("a node changes its own spec", nodeA, action("update", "nodes", name: "a")),
        disallowed("a node deletes itself", nodeA, action("delete", "nodes", name: "a")),
        disallowed("a node gets another node", nodeA, action("get", "nodes", name: "b")),
        disallowed("a node registers another node", nodeA, action("create", "nodes", name: "b")),
        disallowed("a node lists nodes", nodeA, action("list", "nodes")),

        allowed("a node lists its pods", nodeA, action("list", "pods", selected: "a")),
        allowed("a node watches its pods", nodeA, action("watch", "pods", selected: "a")),
        disallowed("a node lists all pods", nodeA, action("list", "pods")),
        disallowed("a node watches another node's pods", nodeA, action("watch", "pods", selected: "b")),
        disallowed("a node lists one namespace's pods", nodeA, action("list", "pods", namespace: "ns")),
        allowed("a node gets a pod bound to it", nodeA, action("get", "pods", name: "p", namespace: "ns", bound: "a")),
        disallowed("a node gets a pod bound elsewhere", nodeA, action("get", "pods", name: "p", namespace: "ns", bound: "b")),
        disallowed("a node gets a pod bound nowhere", nodeA, action("get", "pods", name: "p", namespace: "ns")),
        allowed("a node reports its pod's status", nodeA, action("patch", "pods/status", name: "p", namespace: "ns", bound: "a")),
        disallowed("a node reports another's pod's status", nodeA, action("patch", "pods/status", name: "p", namespace: "ns", bound: "b")),
        disallowed("a node changes its pod", nodeA, action("patch", "pods", name: "p", namespace: "ns", bound: "a")),
        disallowed("a node creates a pod", nodeA, action("create", "pods", namespace: "ns")),
        disallowed("a node binds a pod to itself", nodeA, action("create", "pods/binding", name: "p", namespace: "ns", bound: "a")),
        disallowed("a node deletes its pod", nodeA, action("delete", "pods", name: "p", namespace: "ns", bound: "a")),

        disallowed("a node gets a secret its pod uses", nodeA, action("get", "secrets", name: "s", namespace: "ns", bound: "a")),
        disallowed("a node lists secrets", nodeA, action("list", "secrets", selected: "a")),
        disallowed("a node watches secrets", nodeA, action("watch", "secrets", namespace: "ns", selected: "a")),
        disallowed("a node gets a namespace", nodeA, action("get", "namespaces", name: "ns")),

        allowed("a node opens its stream", nodeA, action("create", "nodes/sync", name: "a", group: "coffer.dev")),
        allowed("a node acknowledges", nodeA, action("create", "nodes/acks", name: "a", group: "coffer.dev")),
        disallowed("a node opens another's stream", nodeA, action("create", "nodes/sync", name: "b", group: "coffer.dev")),
        disallowed("a node reads the stream's resource", nodeA, action("get", "nodes/sync", name: "a", group: "coffer.dev")),

        disallowed("a node's name without its group", nodeWithoutGroup, action("get", "nodes", name: "a")),
        disallowed("a node's group without its name", groupWithoutNode, action("get", "nodes", name: "a")),
        disallowed("a node name that is none", badNodeName, action("get", "nodes", name: "../b")),

        disallowed("a stranger reads a secret", stranger, action("get", "secrets", name: "s", namespace: "ns")),
        disallowed("a stranger creates a pod", stranger, action("create", "pods", namespace: "ns")),
        allowed("a stranger sees what is served", stranger, .path(verb: "get", path: "/api/v1")),
        disallowed("a stranger posts to discovery", stranger, .path(verb: "post", path: "/api")),
        disallowed("a path that only begins like discovery", stranger, .path(verb: "get", path: "/apiary")),
        disallowed("a stranger reads metrics", stranger, .path(verb: "get", path: "/metrics")),
        allowed("anybody asks for health", anonymous, .path(verb: "get", path: "/readyz")),
        disallowed("anybody sees what is served", anonymous, .path(verb: "get", path: "/api")),
        disallowed("anybody lists secrets", anonymous, action("list", "secrets")),

        allowed("a stranger asks what it may do", stranger, action("create", "selfsubjectaccessreviews", group: "authorization.k8s.io")),
        allowed("a node asks who it is", nodeA, action("create", "selfsubjectreviews", group: "authentication.k8s.io")),
        disallowed("anybody asks what they may do", anonymous, action("create", "selfsubjectaccessreviews", group: "authorization.k8s.io")),
        disallowed("a stranger asks what others may do", stranger, action("create", "subjectaccessreviews", group: "authorization.k8s.io")),
        disallowed("a stranger lists reviews", stranger, action("list", "selfsubjectaccessreviews", group: "authorization.k8s.io")),
        allowed("an administrator impersonates", admin, action("impersonate", "users", name: "eve")),
        disallowed("a stranger impersonates", stranger, action("impersonate", "users", name: "admin")),
        disallowed("a node impersonates", nodeA, action("impersonate", "users", name: "system:node:b")),
    ]

    @Test("the authorizer's table", arguments: table)
    func decides(_ entry: Case) {
        #expect(Authorizer.decide(entry.identity, entry.action).isAllowed == entry.allowed)
    }

    @Test("what somebody may do, as a list, is what is decided of it", arguments: [admin, nodeA, nodeWithoutGroup, stranger, anonymous])
    func rules(of identity: Identity) {
        let (resources, paths) = Authorizer.rules(of: identity)
        for rule in resources {
            for verb in rule.verbs {
                for (group, resource) in zip(rule.groups, rule.resources) {
                    for name in rule.names.isEmpty ? [""] : rule.names {
                        #expect(Authorizer.decide(identity, Self.action(verb, resource, name: name, group: group)).isAllowed, "\(verb) \(resource) \(name)")
                    }
                }
            }
        }
        for rule in paths {
            for verb in rule.verbs { for path in rule.paths { #expect(Authorizer.decide(identity, .path(verb: verb, path: path)).isAllowed, "\(path)") } }
        }
        // Nothing that is denied is in the list.
        for entry in Self.table where !entry.allowed && entry.identity == identity {
            guard case .resource(let action) = entry.action else { continue }
            let resource = action.resource + (action.subresource.isEmpty ? "" : "/" + action.subresource)
            #expect(!resources.contains { rule in
                rule.verbs.contains(action.verb) && rule.groups.contains(action.group) && rule.resources.contains(resource)
                    && (rule.names.isEmpty || rule.names.contains(action.name))
            }, "\(entry.testDescription)")
        }
    }

    @Test("labels that keep pods to some nodes are told from others", arguments: [
        ("node-restriction.kubernetes.io/tier", true), ("a.node-restriction.kubernetes.io/tier", true), ("node-restriction.kubernetes.io", false),
        ("xnode-restriction.kubernetes.io/tier", false), ("kubernetes.io/hostname", false), ("tier", false),
    ])
    func restrictedLabels(label: String, isRestricted: Bool) { #expect(NodeRules.isRestricted(label: label) == isRestricted) }

    @Test("a denial says why")
    func reasons() {
        let listing = Authorizer.decide(Self.nodeA, Self.action("list", "pods"))
        #expect(listing == .denied(because: "a node may list and watch its own pods only: use the field selector spec.nodeName=a"))
        let secret = Authorizer.decide(Self.nodeA, Self.action("get", "secrets", name: "s", namespace: "ns"))
        #expect(secret == .denied(because: "a node receives secrets by its sync stream only"))
    }
}
