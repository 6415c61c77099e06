import Resources

/// How a client wants resources shown, by its `Accept` header: the first range in it that we can serve.
enum Rendering: Equatable {
    case object
    case table
    case partialMetadata

    static let accepted = ["application/json"]

    /// Nil: none of what it accepts.
    init?(accept: String?) {
        guard let accept, !accept.trimmed.isEmpty else { self = .object; return }
        for range in accept.split(separator: ",") {
            let parts = range.split(separator: ";").map(\.trimmed)
            guard let media = parts.first?.lowercased(), ["application/json", "application/*", "*/*"].contains(media) else { continue }
            var parameters: [String: String] = [:]
            for part in parts.dropFirst() {
                let pair = part.split(separator: "=", maxSplits: 1)
                if pair.count == 2 { parameters[String(pair[0]).lowercased()] = String(pair[1]) }
            }
            switch (parameters["as"], parameters["g"], parameters["v"]) {
            case (nil, _, _): self = .object; return
            case ("Table", "meta.k8s.io", "v1"): self = .table; return
            case ("PartialObjectMetadata", "meta.k8s.io", "v1"), ("PartialObjectMetadataList", "meta.k8s.io", "v1"): self = .partialMetadata; return
            default: continue
            }
        }
        return nil
    }

    func one(_ resource: Resource, now: Timestamp, including: Table.Included) -> JSONValue {
        switch self {
        case .object: resource.json
        case .table: Table([resource], of: resource.type, now: now).json(resourceVersion: resource.resourceVersion, including: including)
        case .partialMetadata: Self.metadata(resource)
        }
    }

    func list(
        _ type: ResourceType, _ items: [Resource], resourceVersion: String, continueToken: String, remaining: Int64?, now: Timestamp,
        including: Table.Included
    ) -> JSONValue {
        switch self {
        case .object:
            return type.list(items, resourceVersion: resourceVersion, continueToken: continueToken, remaining: remaining)
        case .table:
            var table = Table(items, of: type, now: now).json(resourceVersion: resourceVersion, continueToken: continueToken, including: including)
            if let remaining { table[["metadata", "remainingItemCount"]] = .integer(remaining) }
            return table
        case .partialMetadata:
            var list = type.list([], resourceVersion: resourceVersion, continueToken: continueToken, remaining: remaining)
            list["kind"] = "PartialObjectMetadataList"
            list["apiVersion"] = "meta.k8s.io/v1"
            list["items"] = .array(items.map(Self.metadata))
            return list
        }
    }

    static func metadata(_ resource: Resource) -> JSONValue {
        ["kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": resource.withoutSecretData.tree["metadata"] ?? [:]]
    }
}

extension StringProtocol {
    var trimmed: String {
        String(drop { $0 == " " || $0 == "\t" }.reversed().drop { $0 == " " || $0 == "\t" }.reversed())
    }
}
