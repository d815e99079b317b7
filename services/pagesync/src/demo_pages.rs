//! The Pages of `pagesync demo` and of `pagesync simulator`.

use serde_json::json;

/// A Page of the demo.
#[derive(Debug, Clone, Copy)]
pub struct DemoPage {
    /// The id of the Page.
    pub id: &'static str,
    /// The name of the Page at the start.
    pub name: &'static str,
    phone: &'static str,
}

/// The Pages of the demo.
pub const DEMO_PAGES: [DemoPage; 3] = [
    DemoPage {
        id: "100000000000001",
        name: "Café Aurora",
        phone: "+49 30 1234567",
    },
    DemoPage {
        id: "100000000000002",
        name: "Bookshop at the Harbour",
        phone: "+45 33 123 456",
    },
    DemoPage {
        id: "100000000000003",
        name: "Fahrradwerkstatt Süd",
        phone: "+43 1 234 5678",
    },
];

impl DemoPage {
    /// Returns the Page as Graph returns it.
    pub fn as_graph(&self) -> simulator::pages::Page {
        let picture = format!("https://scontent.example/v/{}.jpg", self.id);
        let page = json!({
            "id": self.id, "name": self.name, "phone": self.phone, "category": "Local business",
            "category_list": [{"id": "2500", "name": "Local business"}],
            "about": "One of three Pages of the demo", "link": format!("https://www.facebook.com/{}", self.id),
            "emails": ["hello@example.org"], "fan_count": 1234, "followers_count": 1300,
            "is_published": true, "is_permanently_closed": false, "verification_status": "not_verified",
            "picture": {"data": {"cache_key": self.id, "is_silhouette": false, "url": picture}},
        });
        page.as_object().cloned().unwrap_or_default()
    }
}
