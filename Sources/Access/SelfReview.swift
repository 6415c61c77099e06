/// A question that somebody asks about themselves, as Kubernetes names it: `kubectl auth can-i`, `kubectl auth whoami`.
package struct SelfReview: Sendable, Equatable {
    package let group: String
    package let resource: String
    package let kind: String

    package static let access = SelfReview(group: "authorization.k8s.io", resource: "selfsubjectaccessreviews", kind: "SelfSubjectAccessReview")
    package static let rules = SelfReview(group: "authorization.k8s.io", resource: "selfsubjectrulesreviews", kind: "SelfSubjectRulesReview")
    package static let identity = SelfReview(group: "authentication.k8s.io", resource: "selfsubjectreviews", kind: "SelfSubjectReview")
    package static let all = [access, rules, identity]
}

/// What may be done with which resources; `*` is any.
package struct ResourceRule: Sendable, Equatable {
    package var verbs: [String]
    package var groups: [String]
    package var resources: [String]
    /// Empty: of any name.
    package var names: [String] = []
}

/// What may be done with which paths that are no resources.
package struct PathRule: Sendable, Equatable {
    package var verbs: [String]
    package var paths: [String]
}
