import Access
import HTTPTypes
import Resources

/// `kubectl --as`: an administrator asks to be taken for somebody else. Whoever may not is refused, and never answered as themselves: who
/// asks as a node must not be shown what an administrator sees.
struct Impersonation: Equatable {
    let identity: Identity
    private static let prefix = "impersonate-"
    /// Groups one request may name.
    private static let groupsMax = 64

    /// Nil: nobody is impersonated.
    init?(_ headers: HTTPFields) throws(Status) {
        var user = "", groups: [String] = []
        var isAsked = false
        for field in headers where field.name.canonicalName.hasPrefix(Self.prefix) {
            isAsked = true
            switch field.name.canonicalName {
            case "impersonate-user": user = field.value
            case "impersonate-group": groups.append(field.value)
            default: throw .badRequest("\(field.name.rawName): only users and groups can be impersonated")
            }
        }
        guard isAsked else { return nil }
        guard !user.isEmpty else { throw .badRequest("groups were asked to be impersonated without a user") }
        guard groups.count <= Self.groupsMax else { throw .badRequest("more than \(Self.groupsMax) groups were asked to be impersonated") }
        let isAnonymous = user == PeerIdentity.anonymous.user
        identity = isAnonymous ? PeerIdentity.anonymous : Identity(user: user, groups: groups + [Identity.authenticated])
    }

    var action: Action { .resource(ResourceAction(verb: "impersonate", resource: "users", name: identity.user)) }
}
